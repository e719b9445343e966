"""The consumer API's wire formats: client bytes to and from the types of `tokenhub.core.chat`."""
