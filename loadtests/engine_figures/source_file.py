"""A source file of 1.4 kB that a small model can copy: short lines, each of them different."""

SOURCE = '''"""The answers of the library service, as numbers and as words."""

CONTINUE = 100
OK = 200
CREATED = 201
ACCEPTED = 202
NO_CONTENT = 204
MOVED = 301
FOUND = 302
NOT_MODIFIED = 304
BAD_REQUEST = 400
UNAUTHORIZED = 401
FORBIDDEN = 403
NOT_FOUND = 404
TOO_SLOW = 408
CONFLICT = 409
GONE = 410
TOO_LARGE = 413
TEAPOT = 418
TOO_MANY = 429
SERVER_ERROR = 500
BAD_GATEWAY = 502
UNAVAILABLE = 503
NO_ROOM = 507

WORDS = {
    CONTINUE: "Please go on",
    OK: "Here is your book",
    CREATED: "The book is on its shelf",
    ACCEPTED: "We shall look for it",
    NO_CONTENT: "There is nothing to show",
    MOVED: "The book has a new shelf",
    FOUND: "Look on the other shelf",
    NOT_MODIFIED: "You have the latest edition",
    BAD_REQUEST: "We cannot read your note",
    UNAUTHORIZED: "Please show your card",
    FORBIDDEN: "This room is closed to you",
    NOT_FOUND: "There is no such book",
    TOO_SLOW: "You kept us waiting",
    CONFLICT: "Somebody else holds this book",
    GONE: "The book was given away",
    TOO_LARGE: "You carry too many books",
    TEAPOT: "Tea is served downstairs",
    TOO_MANY: "Please come back tomorrow",
    SERVER_ERROR: "The librarian fell asleep",
    BAD_GATEWAY: "The other library is silent",
    UNAVAILABLE: "The library is closed today",
    NO_ROOM: "The shelves are full",
}


def words(status: int) -> str:
    return WORDS[status]
'''
