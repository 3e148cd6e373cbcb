"""Answers from documents with LangChain: embed passages, retrieve the nearest, ask about them.

    pip install langchain-openai
    export OPENAI_BASE_URL=http://127.0.0.1:8081/v1 OPENAI_API_KEY=$(cat .quarterdeck/keys/admin)
    python rag.py --model smollm2 "How do I read the rows of a CSV file?"
    python rag.py --model smollm2 --files notes/*.txt -- "What did we decide?"

Without files the documents are what the standard library's modules say of themselves. Any model
answers and embeds; one that was trained for retrieval retrieves better (`--embedding-model`).
"""

import argparse
import ast
import sysconfig
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

MODULES = ("csv", "heapq", "bisect", "shutil", "glob", "random", "sched", "textwrap")
PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer in one sentence, from this text alone:\n\n{context}"),
        ("user", "{question}"),
    ]
)


def module_documents() -> list[Document]:
    """What modules of the standard library say of themselves."""
    folder = Path(sysconfig.get_path("stdlib"))
    documents = []
    for name in MODULES:
        text = ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8")))
        documents.append(Document(f"The module {name}. {text}", metadata={"source": name}))
    return documents


def file_documents(files: list[Path]) -> list[Document]:
    """Each file as one document."""
    return [
        Document(file.read_text(encoding="utf-8"), metadata={"source": str(file)}) for file in files
    ]


def passages(documents: list[Document], size: int) -> list[Document]:
    """Documents cut into pieces of about `size` characters, at the ends of words."""
    pieces = []
    for document in documents:
        words, length = [], 0
        for word in document.page_content.split():
            if words and length + len(word) > size:
                pieces.append(Document(" ".join(words), metadata=document.metadata))
                words, length = [], 0
            words.append(word)
            length += len(word) + 1
        if words:
            pieces.append(Document(" ".join(words), metadata=document.metadata))
    return pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question")
    parser.add_argument("--model", required=True, help="the service that answers")
    parser.add_argument("--embedding-model", help="the service that embeds (default: the same)")
    parser.add_argument("--files", nargs="*", type=Path, default=[])
    parser.add_argument("--passage", type=int, default=600, help="characters of a passage")
    parser.add_argument("--top", type=int, default=2, help="passages that the answer may use")
    parser.add_argument("--max-tokens", type=int, default=64)
    asked = parser.parse_args()

    documents = file_documents(asked.files) if asked.files else module_documents()
    # LangChain would count tokens with OpenAI's own tokenizer and send their numbers, which mean
    # something else to every other model: `check_embedding_ctx_length=False` sends text.
    embeddings = OpenAIEmbeddings(
        model=asked.embedding_model or asked.model, check_embedding_ctx_length=False
    )
    store = InMemoryVectorStore(embeddings)
    store.add_documents(passages(documents, asked.passage))
    found = store.similarity_search_with_score(asked.question, k=asked.top)
    for passage, score in found:
        print(f"[{score:.3f}] {passage.metadata['source']}: {passage.page_content[:60]}…")

    chat = ChatOpenAI(model=asked.model, temperature=0, max_tokens=asked.max_tokens)
    chain = PROMPT | chat | StrOutputParser()
    context = "\n\n".join(passage.page_content for passage, _ in found)
    for piece in chain.stream({"context": context, "question": asked.question}):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
