"""The stages; each is a program of its own, whose libraries are told to be quiet before they are
imported."""

from boig_core.observability.quiet import quiet_libraries

quiet_libraries()
