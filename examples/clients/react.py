"""A ReAct loop with the plain `openai` client: think, act, observe, until there is an answer.

    pip install openai
    export OPENAI_BASE_URL=http://127.0.0.1:8081/v1 OPENAI_API_KEY=$(cat .quarterdeck/keys/admin)
    python react.py --model smollm2 "What is 17 times 23?"

The model writes `Action: TOOL INPUT`; the stop sequence keeps it from making the observation up,
which this program writes instead. It needs no tool calling of the server: any model that goes on
with a text will do.
"""

import argparse
import ast
import importlib
import operator
import re

from openai import OpenAI

ACTION = re.compile(r"Action: (.+?)\n")
ANSWER = re.compile(r"Answer: (.+?)(?:\n|$)")
STOP = ["Observation:", "Question:"]
EXAMPLES = """\
Answer the question with the help of two tools: `calculate` takes an arithmetic expression, \
`lookup` takes the name of a Python function.

Question: What is 12 plus 30?
Thought: I must calculate 12 + 30.
Action: calculate 12 + 30
Observation: 42
Thought: I know the result.
Answer: 42

Question: What does json.loads do?
Thought: I must look up json.loads.
Action: lookup json.loads
Observation: Deserialize s (a str, bytes or bytearray instance containing a JSON document) to a \
Python object.
Thought: I know what it does.
Answer: It turns a JSON document into a Python object.

Question: What is 9 times 8?
Thought: I must calculate 9 * 8.
Action: calculate 9 * 8
Observation: 72
Thought: I know the result.
Answer: 72

"""
MODULES = ("builtins", "json", "math", "random", "shutil", "statistics")
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


def calculate(expression: str) -> str:
    """The value of an expression of numbers with + - * / and parentheses."""

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.operand))
        raise ValueError("only numbers, + - * / and parentheses")

    return f"{value(ast.parse(expression.strip(), mode='eval').body):.10g}"


def lookup(name: str) -> str:
    """The first line of the documentation of a function such as `json.loads`."""
    module, _, function = name.strip().strip("`()").rpartition(".")
    if (module or "builtins") not in MODULES:  # importing runs code: never what a model names
        raise ValueError(f"only functions of {', '.join(MODULES)}")
    found = getattr(importlib.import_module(module or "builtins"), function)
    return (found.__doc__ or "It has no documentation.").strip().splitlines()[0]


TOOLS = {"calculate": calculate, "lookup": lookup}


def act(action: str) -> str:
    """What a tool says; an error is an observation too, from which the model may go on."""
    tool, _, argument = action.partition(" ")
    if tool not in TOOLS:
        return f"there is no tool {tool!r}: write {' or '.join(TOOLS)} and what it is to take"
    try:
        return TOOLS[tool](argument)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question")
    parser.add_argument("--model", required=True, help="the service to ask")
    parser.add_argument("--turns", type=int, default=5, help="the most actions")
    parser.add_argument("--max-tokens", type=int, default=64, help="of each turn")
    parser.add_argument("--bare", action="store_true", help="without the examples")
    asked = parser.parse_args()

    text = f"{'' if asked.bare else EXAMPLES}Question: {asked.question}\nThought:"
    print("Thought:", end="")
    with OpenAI() as client:
        for _ in range(asked.turns):
            written = client.completions.create(
                model=asked.model, prompt=text, stop=STOP, temperature=0,
                max_tokens=asked.max_tokens,
            ).choices[0].text  # fmt: skip
            action = ACTION.search(written)
            answer = ANSWER.search(written)
            if action is None or (answer and answer.start() < action.start()):
                print(written.rstrip())
                return 0 if answer else 1
            # What stands behind the action is the model's guess of what comes next.
            written = written[: action.end()]
            observation = f"Observation: {act(action[1])}\nThought:"
            print(f"{written}{observation}", end="", flush=True)
            text += written + observation
    print("\nno answer after so many actions")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
