"""The command `mbv2kit serve`, from a checkout: see mbv2kit/commands/serve.py."""

from mbv2kit.commands.serve import main

if __name__ == "__main__":
    main()
