"""What the site is made of besides its pages: navigation, and pages that are generated from code.

Rules: a page is generated where the code already says what it must say: the API, limits, errors,
command lines, mutants. `hook` is what MkDocs calls. No user installs any of this.
"""
