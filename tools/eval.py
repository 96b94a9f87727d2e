"""The command `mbv2kit eval`, from a checkout: see mbv2kit/commands/eval.py."""

from mbv2kit.commands.eval import main

if __name__ == "__main__":
    main()
