"""``python -m reverie.cli`` is the ``reverie`` command."""

from reverie.cli.main import main

if __name__ == "__main__":
    main()
