"""``custody serve`` that may have 256 files open, which is few."""

import resource

from custody.cli import main

DESCRIPTORS = 256

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    main()
