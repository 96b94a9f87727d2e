"""The command `mbv2kit paper`, from a checkout: see mbv2kit/commands/paper.py."""

from mbv2kit.commands.paper import main

if __name__ == "__main__":
    main()
