"""The command `mbv2kit train`, from a checkout: see mbv2kit/commands/train.py."""

from mbv2kit.commands.train import main

if __name__ == "__main__":
    main()
