"""``python -m boig_core.cli`` is ``boig``."""

from boig_core.cli import main

main()
