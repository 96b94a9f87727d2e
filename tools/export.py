"""The command `mbv2kit export`, from a checkout: see mbv2kit/commands/export.py."""

from mbv2kit.commands.export import main

if __name__ == "__main__":
    main()
