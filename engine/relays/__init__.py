"""To message brokers and from them: events that are published, and messages that become commands.

What comes in is a committed event, as a sink is given it, or a message of a broker. What leaves is
a message that the broker has made durable, or a command whose receipt acknowledges the message.
Read `message`, `outlet`, `relay`, then one broker; for the way in, `inlet` and `consumer`. Each
broker needs an extra of its name, and its client library is imported when the first connection is
made, and never before.
"""

from .consumer import Consumed as Consumed
from .consumer import Consumer as Consumer
from .inlet import Message as Message
from .message import Outgoing as Outgoing
from .relay import Relay as Relay

__all__ = ["Consumed", "Consumer", "Message", "Outgoing", "Relay"]
