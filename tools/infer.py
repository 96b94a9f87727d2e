"""The command `mbv2kit infer`, from a checkout: see mbv2kit/commands/infer.py."""

from mbv2kit.commands.infer import main

if __name__ == "__main__":
    main()
