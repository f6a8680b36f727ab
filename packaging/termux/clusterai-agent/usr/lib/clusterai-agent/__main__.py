"""What the launcher runs."""

import sys

from clusterai_agent.__main__ import main

sys.exit(main())
