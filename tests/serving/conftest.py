"""The tests of this folder need the extra [serve]."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("aiohttp") and find_spec("prometheus_client") else ["test_*.py"]
