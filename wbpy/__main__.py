"""``python -m wbpy`` is the command ``wbpy``."""

from wbpy.cli import main

if __name__ == "__main__":
    main()
