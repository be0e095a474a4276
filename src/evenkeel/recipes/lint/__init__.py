"""The linter: name, CONFIG block, resolved recipe, listing and checks say the same thing.

A :class:`tree.Tree` indexes the files once; rules, registered in :mod:`registry`, look at one
driver, recipe or listing at a time and yield findings; :mod:`engine` runs them, :mod:`waivers`
drops what is allowed in place, :mod:`fixes` repairs what is certain.
"""
