"""From a composed config to checked settings and built parts.

Nothing is written back into the config: what is derived (the stem, the mean, the steps) is worked
out where it is built.
"""
