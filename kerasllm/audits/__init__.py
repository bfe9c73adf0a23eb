"""One report about a model: what it was made of, what was measured, and what nobody has looked at.

parts.py  what a run's record and the audits of bias, safety and memory say, in one form
pages.py  all parts as a page that needs nothing from elsewhere
cards.py  and as a model card of Hugging Face's, beside what only its author can say
"""

from kerasllm.audits.cards import model_card
from kerasllm.audits.pages import page
from kerasllm.audits.parts import Part, of_bias, of_memory, of_model, of_record, of_safety, of_text

__all__ = ["Part", "model_card", "of_bias", "of_memory", "of_model", "of_record", "of_safety", "of_text", "page"]
