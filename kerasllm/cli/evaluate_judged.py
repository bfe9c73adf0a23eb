"""`kerasllm evaluate --compare A B ... --judge MODEL --data QUESTIONS`: whose answers a judge prefers."""

import json
from pathlib import Path

from kerasllm.files import write_json

_ANSWER = 256  # tokens


def run(arguments):
    """Has each model answer the questions, and the judge compare the answers."""
    if not arguments.judge:
        raise ValueError("--compare takes --tasks, or --judge with the questions as --data.")
    if len(set(arguments.compare)) < 2:
        raise ValueError("--compare takes two models or more, each once.")
    import kerasllm
    from kerasllm import report
    from kerasllm.evaluation import judge_answers

    questions = kerasllm.data.read_questions(arguments.data)
    limit = arguments.limit or len(questions)
    texts = [messages[-1]["content"] for messages in questions if len(messages) == 1][:limit]
    if not texts:
        raise ValueError(f"{' '.join(arguments.data)} has no questions of one turn.")
    answers = {folder: _answers(folder, texts, arguments.quantize) for folder in dict.fromkeys(arguments.compare)}
    judge, tokenizer = kerasllm.load(arguments.judge, quantize=arguments.quantize)
    scores = judge_answers(judge, tokenizer, texts, answers, seed=arguments.seed or 0)
    figures = {**scores.to_dict(), "questions": texts, "answers": answers}
    if arguments.json:
        print(json.dumps(figures))
    else:
        report.table(f"{arguments.judge} compares the answers to {len(texts):,} questions (strength)", scores.rows())
    if arguments.out:
        write_json(Path(arguments.out), figures)


def _answers(folder, questions, quantize):
    import kerasllm
    from kerasllm.evaluation.respondent import Respondent

    model, tokenizer = kerasllm.load(folder, quantize=quantize)
    respondent = Respondent(model, tokenizer)
    prompts = [respondent.encode_question(question) for question in questions]
    return respondent.continuations(prompts, min(_ANSWER, respondent.max_length // 2))
