"""How the site is made: tables of file formats, pictures, and the running of every code block. Not part of it."""
