"""The one exception the command line turns into a single line and exit status 2."""


class UserError(Exception):
    """Something the user can mend; the message says what, and how."""
