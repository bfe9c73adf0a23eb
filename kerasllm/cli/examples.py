"""What `kerasllm COMMAND --help` shows of each command, and what settings are to `tune`."""

EXAMPLES = {
    "quickstart": "kerasllm quickstart",
    "scale": """kerasllm scale --data corpus/*.txt --budget-minutes 60 --for-hours 24 --out study
kerasllm scale --data corpus --preset llama --budget-minutes 30 --for-flops 1e17 --out study   # models of its kind
kerasllm train --config study/best.yaml --out best""",
    "prepare": """kerasllm prepare --data crawl/*.jsonl.zst --clean --deduplicate --tokenizer my-run --out tokens
kerasllm prepare --data hf:wikimedia/wikipedia/20231101.en --decontaminate test.txt --tokenizer my-run --out wiki
kerasllm prepare --data crawl --clean --deduplicate --tokenizer my-run --out tokens --runner DirectRunner \
    --direct_num_workers 8 --direct_running_mode multi_processing   # Apache Beam, here in eight processes
kerasllm train --data tokens --out my-model""",
    "train": """kerasllm train --data corpus/*.txt --out my-run
kerasllm train --data tfds:tiny_shakespeare --tokenizer char --steps 2000 --out shakespeare
kerasllm train --data corpus --preset gpt2 --num-layers 6 --d-model 384 --num-heads 6 --max-length 256 --out small-gpt2
kerasllm train --data corpus --set model.num_kv_heads=2 --set model.attention_window=128 --out windowed   # any field
kerasllm train --data crawl.jsonl.gz --clean --deduplicate --packed --out clean   # each document sees itself alone
kerasllm train --data corpus --batch-size 64 --micro-batches 8 --remat block --loss-chunk 256 --out small-memory
kerasllm train --data reviews.csv --field review --out reviews   # also .jsonl.zst, .json, .parquet: where the text is
kerasllm train --data tokens --out prepared   # what kerasllm prepare made
kerasllm train --task contrast --data pictures --set model.vision.image_size=48 --out eyes   # images and texts
kerasllm train --task caption --data pictures --encoder eyes --out captions   # a model that writes what it sees
kerasllm train --data wiki@0.3 code@0.7:2B --out mixed   # of such: shares of each batch, at most so many tokens
kerasllm train --task masked --data corpus --tokenizer wordpiece --preset bert-laptop --out my-bert
kerasllm train --task translate --data train.en train.de --valid val.en val.de --test test.en test.de --out en-de
kerasllm train --task classify --data reviews.csv --text-column review --label-column stars --from my-bert --out stars
kerasllm train --task classify --data reviews.csv --from gpt2 --adapter lora --rank 16 --out stars   # few weights learn
kerasllm train --data corpus --teacher my-run --num-layers 2 --d-model 128 --out small   # learns what my-run says
kerasllm train --data corpus --log-to tensorboard --watch-layers 100 --sample "Once upon a time" --out watched
kerasllm train --config run.yaml --lr 3e-4 --out my-run   # run.yaml: `batch_size: 64` and so on; flags win
kerasllm train --resume my-run   # goes on with a run that was interrupted or killed, as if it had not been""",
    "plan": """kerasllm plan --calibrate   # once, some minutes: how fast this machine is
kerasllm plan --preset gpt2 --data 300M --batch-size 16 --max-length 512
kerasllm plan --preset gpt2 --data 300M --batch-size 16 --memory 4GB   # what makes it fit
kerasllm plan --preset llama-3-8b --data 10B --device h100 --precision mixed_bfloat16 --remat block --budget-hours 100
kerasllm plan --preset llama-3-8b --device rtx-4090 --rank 16 --quantize nf4 --batch-size 1 --max-length 2048""",
    "tune": """kerasllm tune --model my-run --data chats.jsonl --out my-assistant
kerasllm tune --model HuggingFaceTB/SmolLM2-135M-Instruct --data chats.jsonl --test questions.txt --out smol
kerasllm tune --model gpt2 --chat-format chatml --data alpaca.json --out gpt2-chats   # it has not learned to chat
kerasllm tune --model my-run --data chats.jsonl --adapter none --out whole   # all weights are trained
kerasllm tune --task prefer --model my-assistant-whole --data pairs.jsonl --out preferred   # of two answers
kerasllm tune --task dialogue --model my-run --data dialogues.jsonl --out my-lamda   # it writes and judges
kerasllm tune --task reward --model my-run --data sums.jsonl --reward exact --out my-sums   # right answers
kerasllm tune --config tune.yaml --rank 8 --out my-assistant   # tune.yaml: `base: my-run` and so on; flags win
kerasllm tune --resume my-assistant   # goes on with a run that was interrupted or killed
kerasllm merge my-assistant my-run-2   # the adapter goes into the kernels""",
    "evaluate": """kerasllm evaluate --model my-run --data held-out.txt --stride 64
kerasllm evaluate --model en-de --data test.en test.de   # a model that translates: BLEU, chrF and TER
kerasllm evaluate --model stars --data test.csv --field review stars   # a classifier: accuracy, F1 and Matthews
kerasllm evaluate --model my-bert --data held-out.txt   # a masked model: how many hidden tokens it names
kerasllm evaluate --task dialogue --model my-lamda --judge other-judge --data dialogues.jsonl   # its replies
kerasllm evaluate --model my-run --tasks cloze needle --text held-out.txt --plot tasks.png   # tasks without download
kerasllm evaluate --compare my-run my-assistant --tasks arithmetic copying --limit 200   # paired tests
kerasllm evaluate --compare my-run my-assistant --judge other-judge --data questions.txt   # whose answers are better
kerasllm evaluate --model my-run --tasks cloze --checkpoints --out cloze.json --plot cloze.png   # as it learned
kerasllm evaluate --model my-run --tasks my-tasks/ --few-shot 3   # tasks of lm-evaluation-harness""",
    "runs": """kerasllm runs my-runs --plot runs.png""",
    "generate": """kerasllm generate --model my-run --prompt "Once upon a time" --max-new-tokens 100
kerasllm generate --model my-run --prompt "Once upon a time" --sampler random --temperature 0.8 --top-p 0.95 --seed 1
kerasllm generate --model my-run --prompt "It was on " --regex "[0-9]{4}-[0-9]{2}-[0-9]{2}"   # a text of this form
kerasllm generate --model gpt2 --prompt "Once upon a time"   # a folder in Hugging Face's format""",
    "chat": """kerasllm chat --model Qwen3-0.6B
kerasllm chat --model SmolLM2-135M-Instruct.Q4_1.gguf
kerasllm chat --model SmolVLM-256M-Instruct --image photo.jpg   # and in the chat, /image other.jpg
kerasllm chat --model Qwen3-0.6B --filter filter.yaml   # what may not be said, by words, patterns or models
kerasllm chat --model Qwen3-0.6B --system "Answer in one sentence." --temperature 0.7 --top-p 0.8""",
    "caption": """kerasllm caption --model SmolVLM-256M-Instruct photo.jpg --prompt "Describe this image."
kerasllm caption --model captions photo.jpg   # what kerasllm train --task caption made
kerasllm caption --model llava-1.5-7b-hf --quantize nf4 *.png --prompt "How many people are there?" --json""",
    "serve": """kerasllm serve my-run   # http://127.0.0.1:8000
kerasllm serve my-run --filter filter.yaml   # what may not be said
kerasllm serve SmolLM2-135M-Instruct all-MiniLM-L6-v2 --port 8080 --api-key secret   # it chats, and embeds""",
    "translate": """kerasllm translate --model en-de --text "A dog runs through the snow."
kerasllm translate --model en-de --file sentences.en > sentences.de""",
    "merge": "kerasllm merge my-tuned my-run",
    "classify": """kerasllm classify --model stars --text "I would see it again."
kerasllm classify --model stars --file reviews.txt --json > labels.jsonl
kerasllm classify --model nli --text "A man plays a guitar." "Somebody makes music."   # the two texts of a pair""",
    "detect": """kerasllm detect --model my-run --watermark green.json --text "May be a model's ..."
kerasllm detect --model my-run --watermark green.json --file a.txt b.txt --calibrate human.jsonl --rate 0.001""",
    "audit": """kerasllm audit my-run   # all that its files allow: a page, and a model card
kerasllm audit bias --model my-run --crows-pairs crows_pairs_anonymized.csv --out bias
kerasllm audit bias --compare my-run my-mended-run --templates mine.yaml --text held-out.txt --out mended
kerasllm audit safety --model my-run --prompts prompts.txt --classifier unsafe-replies --pairs --out safety
kerasllm audit memory my-run --out memory""",
    "explain": """kerasllm explain --model my-run --text "The capital of France is" --target " Paris" --out why.html
kerasllm explain --model my-run --text "The cat sat on the" --target " mat" --contrast " dog" --out cat.html
kerasllm explain --model SmolVLM-256M-Instruct --image cat.jpg --text "What is it?" --target " A cat" --out cat.html
kerasllm explain --model stars --text "I would see it again." --out label.html   # a classifier's label
kerasllm explain --model en-de --text "A dog runs." --out translation.html""",
    "export": """kerasllm export my-run my-run-saved-model
kerasllm export my-run served/1 --compiled   # quicker, where the server has XLA
kerasllm export my-run served/2 --constraint "date=[0-9]{4}-[0-9]{2}-[0-9]{2}"   # texts of this form, on request
kerasllm export my-run my-run.litertlm --to litert --quantize int8   # for LiteRT-LM, on phones too
kerasllm export my-run my-run-onnx --to onnx   # for onnxruntime-genai""",
    "convert": """kerasllm convert Qwen3-0.6B my-run   # from Hugging Face's format to a run folder
kerasllm convert my-run my-run-huggingface   # and back, for transformers and what follows it
kerasllm convert Qwen3-0.6B served/1 --to saved-model
kerasllm convert my-run my-run.gguf --dtype Q8_0   # for llama.cpp and Ollama""",
    "inspect": """kerasllm inspect my-run
kerasllm inspect my-run/checkpoints/step-00000500""",
    "choose": """kerasllm choose --task generate --data sample.txt --memory 8GB --latency-ms 50 --candidates runs/*
kerasllm choose --task classify --data reviews.csv --candidates stars-small stars-large --plot stars.png""",
    "bench": """kerasllm bench train
kerasllm bench memory --rounds 3 --out memory   # memory.json and memory.png""",
}

QUANTIZE = "keep its kernels in 4 or 8 bits: nf4, nf4-dq, fp4, int4 or int8"

OF_TUNE = {
    "adapter": "what is trained beside the model's kernels, or none to train all of it",
    "data": "conversations to learn: .jsonl, .json or .parquet of messages, ShareGPT, Alpaca or prompt and completion; "
    "reward: tasks, or reasoning_gym:NAME:SIZE:SEED",
    "valid": "conversations to measure on (default: the last 10 %% of --data, not trained on)",
    "test": "questions that are answered before and after, in answers.md: a text with one a line, or records",
    "packed": "windows hold several conversations, which do not see each other",
    "batch_size": "windows in a training step",
    "steps": "training steps, in place of --epochs",
    "epochs": "passes over the data",
    "max_length": "tokens in a training window (default: 1024, or as many as the model takes)",
    "dropout": "share of activations dropped in training (default: the model's own)",
}
