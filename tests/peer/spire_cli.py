def check_cli(*_): pass
