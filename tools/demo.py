"""The command `mbv2kit demo`, from a checkout: see mbv2kit/commands/demo.py."""

from mbv2kit.commands.demo import main

if __name__ == "__main__":
    main()
