"""The command `mbv2kit push`, from a checkout: see mbv2kit/commands/push.py."""

from mbv2kit.commands.push import main

if __name__ == "__main__":
    main()
