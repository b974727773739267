"""The shop over HTTP: `app` has the requests, `page` the live page.

Run it: `python -m domain.web`. A host with an application of its own mounts `create_app(store)`.
"""

from .app import create_app

__all__ = ["create_app"]
