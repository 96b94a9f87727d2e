"""The command `mbv2kit make-shards`, from a checkout: see mbv2kit/commands/make_shards.py."""

from mbv2kit.commands.make_shards import main

if __name__ == "__main__":
    main()
