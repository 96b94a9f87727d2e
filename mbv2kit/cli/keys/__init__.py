"""What the keys of each command may be: ``Keys`` in the module with the name of its configuration file.

Keys of a group whose choices are registered parts, such as ``backbone``, are annotated where the parts are built.
"""

from mbv2kit.cli.keys.check import check_config, keys_of_command, mapping_keys, text_keys

__all__ = ["check_config", "keys_of_command", "mapping_keys", "text_keys"]
