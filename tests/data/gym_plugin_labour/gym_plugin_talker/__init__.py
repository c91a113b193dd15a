"""A model that says one thing, tells of its state, and may find that its endpoint refuses it."""

from pydantic import SecretStr

from gymcore import Config, EndpointError, Model, option
from gymcore.responses import Response, message


class TalkerConfig(Config):
    refused: bool = option(False, operational=True)
    key: SecretStr = option(SecretStr(""), operational=True)


class Talker(Model[TalkerConfig]):
    async def respond(self, request, rollout):
        if self.config.refused:
            raise EndpointError("the key is refused", where="http://127.0.0.1:1", hints=["try: another key"])
        return Response(output=[message(f"{len(self.config.key.get_secret_value())}")])

    def status(self):
        return "the endpoint is slow today"
