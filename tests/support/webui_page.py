"""What a person does on Open WebUI's pages."""

from support.chromium import ENTER, Browser

ANSWER = ".chat-assistant"
_LAST = f"[...document.querySelectorAll('{ANSWER}')].at(-1)?.innerText"


def sign_in(browser: Browser, url: str, *, email: str, password: str) -> None:
    """Come for the first time."""
    browser.open(url)
    browser.type("#email", email)
    browser.type("#password", password)
    browser.click("button[type=submit]")
    browser.click("button[aria-label=Close]")  # what is new in this release


def new_chat(browser: Browser, url: str, model: str) -> None:
    """Begin a chat with a model."""
    browser.open(f"{url}?models={model}")
    browser.shows(model, "#model-selector-model-button")
    browser.find("#chat-input")


def say(browser: Browser, text: str) -> None:
    """Type a message and send it."""
    browser.type("#chat-input", text + ENTER)


def last_answer_has(browser: Browser, text: str) -> None:
    """Wait until the last answer has come as far as the text."""
    browser.until(f"return {_LAST}?.includes(arguments[0])", text)


def answer_ended(browser: Browser) -> None:
    """Wait until a new question can be asked."""
    browser.until("return !document.querySelector('button[aria-label=Stop]')")
