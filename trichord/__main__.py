"""`python -m trichord` is the command `trichord`."""

import sys

from trichord.launch.cli import main

if __name__ == "__main__":
    sys.exit(main())
