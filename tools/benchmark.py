"""The command `mbv2kit benchmark`, from a checkout: see mbv2kit/commands/benchmark.py."""

from mbv2kit.commands.benchmark import main

if __name__ == "__main__":
    main()
