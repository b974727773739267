"""The shop over HTTP: `app` has the requests, `page` the live page.

Run it: `python -m domain.web`.
"""
