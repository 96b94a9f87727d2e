"""The command `mbv2kit convert`, from a checkout: see mbv2kit/commands/convert.py."""

from mbv2kit.commands.convert import main

if __name__ == "__main__":
    main()
