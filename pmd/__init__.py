"""The installed name of the project: `pmd.services`, `pmd.gateway`, `pmd.recipes` and `pmd.examples`.

Invariant: nothing is installed beside this package, so no folder where a user stands and no other wheel can take the
place of a part. In a checkout the parts are links to the folders of the same name.
"""
