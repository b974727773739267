/work/wt-tenants/.venv/bin/python: can't open file '/work/wt-tenants/p3.py': [Errno 2] No such file or directory
