"""A server for models, as OpenAI's clients know one: `kerasllm serve`.

`engine.py` continues texts side by side, `protocol.py` and `answers.py` are OpenAI's forms, `app.py` is the HTTP around
them and `running.py` what the command runs. It needs the extra `serve`.
"""
