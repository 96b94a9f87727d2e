"""Which values a key, an option or a file may hold: checked by the annotation next to its name."""

from mbv2kit.schema.check import check_fields, check_value, shown
from mbv2kit.schema.kinds import is_mapping, is_section, is_text, keys_of, words

__all__ = ["check_fields", "check_value", "is_mapping", "is_section", "is_text", "keys_of", "shown", "words"]
