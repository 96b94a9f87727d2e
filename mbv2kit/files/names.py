"""Names of files that hold any text."""

import os
import re
from hashlib import sha256

# Names that begin with a dot are hidden, and Windows drops a dot or a blank at the end.
_UNSAFE = re.compile(r'[%/\\:*?"<>|\x00-\x1f\x7f-\x9f\ud800-\udfff]|^[. ]|[. ]$')


def safe_name(text: str, most_bytes: int = 255) -> str:
    """Returns a name for a file or folder that leads nowhere else and no other text gets.

    Characters that mean something in a path on any system, and those that cannot be shown, become ``%`` and two
    hexadecimal digits for each of their bytes, as in a URL; so does ``%``. A name that is too long ends with a hash.

    Args:
        text: Any text, such as the name of a class: ``car/truck`` becomes ``car%2Ftruck``, and ``..`` ``%2E%2E``.
        most_bytes: Bytes that the name may take, at least 64.
    """
    escaped = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in os.fsencode(found[0])), text) or "%"
    data = escaped.encode()
    if len(data) <= most_bytes:
        return escaped
    hashed = f"%~{sha256(os.fsencode(text)).hexdigest()[:32]}"
    return data[: most_bytes - len(hashed)].decode("utf-8", "ignore") + hashed
