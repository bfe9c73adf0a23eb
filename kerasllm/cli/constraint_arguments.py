"""The flags that hold the text of `generate` and `chat` to a form."""

NAMES = ("regex", "choices", "json_schema", "grammar", "finish")


def add_constraint_arguments(command):
    """Adds them to a parser."""
    one = command.add_mutually_exclusive_group()
    one.add_argument("--regex", metavar="PATTERN", help="a regular expression that the text matches as a whole")
    one.add_argument("--choices", nargs="+", metavar="TEXT", help="texts, one of which is written")
    one.add_argument("--json-schema", metavar="FILE", help="a file of the JSON schema that the text meets")
    one.add_argument("--grammar", metavar="FILE", help="a file of the grammar of the text, in the language of Lark")
    command.add_argument(
        "--finish",
        choices=("length", "valid"),
        help="with valid, such a text ends within --max-new-tokens as it should; with length it is cut there (default)",
    )
