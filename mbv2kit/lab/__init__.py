"""The benchmark and the comparison with the paper; no other part of mbv2kit depends on them."""
