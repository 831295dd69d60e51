"""Tiny CLIP and tiny Stable Diffusion, trained from scratch on ad-world images: `build.build`,
behind ``boig tiny-models``.

They ship with the package (`boig_core.models`), so that the demo starts at once; this folder is how
anyone makes them again.
"""
