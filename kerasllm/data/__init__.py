"""Text to batches: `read_text` finds documents, `write_tokens` tokenizes them, `causal_lm_dataset` feeds `fit`."""

from kerasllm.data.bucketing import seq2seq_dataset
from kerasllm.data.chat_windows import chat_dataset
from kerasllm.data.chats import read_chats, read_questions
from kerasllm.data.cleaning import clean
from kerasllm.data.counterfactuals import counterfactual
from kerasllm.data.curriculum import curriculum_dataset
from kerasllm.data.decontamination import decontaminate
from kerasllm.data.deduplication import deduplicate
from kerasllm.data.dialogues import dialogue_dataset
from kerasllm.data.image_batches import image_text_dataset
from kerasllm.data.image_pairs import image_pair_dataset
from kerasllm.data.image_prompts import image_prompt
from kerasllm.data.image_texts import read_image_texts
from kerasllm.data.labelled import label_names, read_labelled
from kerasllm.data.languages import keep_languages
from kerasllm.data.made_ratings import rate_replies
from kerasllm.data.masking import masked_lm_dataset
from kerasllm.data.objectives import causal_lm_dataset
from kerasllm.data.parallel import read_pairs, remove_overlap
from kerasllm.data.preference_batches import preference_dataset
from kerasllm.data.preferences import read_preferences
from kerasllm.data.sources import read_text
from kerasllm.data.splitting import split_text
from kerasllm.data.teacher import with_teacher
from kerasllm.data.text_batches import classification_dataset, pair_dataset
from kerasllm.data.token_files import TokenFiles, is_token_folder, write_tokens
from kerasllm.data.token_streams import TokenMixture
from kerasllm.data.unlearning import unlearning_dataset

__all__ = [
    "TokenFiles",
    "TokenMixture",
    "causal_lm_dataset",
    "chat_dataset",
    "classification_dataset",
    "clean",
    "counterfactual",
    "curriculum_dataset",
    "decontaminate",
    "deduplicate",
    "dialogue_dataset",
    "image_pair_dataset",
    "image_prompt",
    "image_text_dataset",
    "is_token_folder",
    "keep_languages",
    "label_names",
    "masked_lm_dataset",
    "pair_dataset",
    "preference_dataset",
    "rate_replies",
    "read_chats",
    "read_image_texts",
    "read_labelled",
    "read_pairs",
    "read_preferences",
    "read_questions",
    "read_text",
    "remove_overlap",
    "seq2seq_dataset",
    "split_text",
    "unlearning_dataset",
    "with_teacher",
    "write_tokens",
]
