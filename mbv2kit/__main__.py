"""``python -m mbv2kit`` is the console command ``mbv2kit``."""

from mbv2kit.commands import main

if __name__ == "__main__":
    main()
