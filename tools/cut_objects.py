"""The command `mbv2kit cut-objects`, from a checkout: see mbv2kit/commands/cut_objects.py."""

from mbv2kit.commands.cut_objects import main

if __name__ == "__main__":
    main()
