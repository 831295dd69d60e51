"""Ray's side; whatever process works on the cluster imports this first, and so its libraries are
told to be quiet in time."""

from boig_core.observability.quiet import quiet_libraries

quiet_libraries()
