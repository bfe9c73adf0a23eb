"""A tool that computes."""

import ast
import math
import operator

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_MOST_CHARACTERS = 200
_MOST = 10**30  # of a result, and of all on the way to it


def calculator(query: str) -> list[str]:
    """Computes what a query asks for: numbers with + - * / // % ** (or ^ × ÷) and brackets between them.

    Args:
        query: str. An equals sign or a question mark at its end, and commas between thousands, do no harm.

    Returns:
        A list of the result, or of nothing where the query is something else, or has no result below 10^30.

    Example:

    >>> calculator("135+7721"), calculator("(2.5 - 1) * 4 ="), calculator("how old is Rafael Nadal?")
    (['7856'], ['6'], [])
    """
    text = query.strip().rstrip("=? ").translate({ord("×"): "*", ord("÷"): "/", ord("^"): "**", ord(","): None})
    if len(text) > _MOST_CHARACTERS:
        return []
    try:
        asked = ast.parse(text, mode="eval").body
        result = _value(asked)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return []
    if isinstance(asked, ast.Constant):  # there is nothing to compute
        return []
    return [f"{result:.12g}" if isinstance(result, float) else str(result)]


def _value(node):
    """The number of a tree of operators and numbers.

    Raises:
        ValueError: for anything else, or a number that is too large.
    """
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)
    operation = _OPERATORS.get(type(getattr(node, "op", None)))
    if operation is None or not isinstance(node, ast.BinOp | ast.UnaryOp):
        raise ValueError("This is no arithmetic.")
    if isinstance(node, ast.UnaryOp):
        return operation(_value(node.operand))
    left, right = _value(node.left), _value(node.right)
    if operation is operator.pow and abs(left) > 1 and abs(right) * math.log10(abs(left)) > math.log10(_MOST):
        raise ValueError("This is too large.")
    return _bounded(operation(left, right))


def _bounded(number):
    if isinstance(number, complex) or not abs(number) < _MOST:
        raise ValueError("This is no number, or too large.")
    return int(number) if number == int(number) else number
