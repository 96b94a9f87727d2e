from mbv2kit.network import ExportNetwork, fold_norms  # noqa: D100, F401
