#!/usr/bin/env python3
"""As much of grpcurl as docs/clients.md uses, for machines without it: services and messages are those
that the server's reflection tells.

usage: grpcurl.py -plaintext [-d JSON] HOST:PORT list | SERVICE/METHOD
"""

import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def reflection_messages():
    """ServerReflectionRequest and -Response, as far as they are needed here."""
    file = descriptor_pb2.FileDescriptorProto(name="reflection.proto", package="grpc.reflection.v1alpha",
                                              syntax="proto3")
    text = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
    data = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
    nested = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    for name, fields in {
        "Request": [("file_by_filename", 3, text), ("file_containing_symbol", 4, text), ("list_services", 7, text)],
        "Files": [("file_descriptor_proto", 1, data)],
        "Service": [("name", 1, text)],
        "Services": [("service", 1, "Service")],
        "Error": [("error_code", 1, descriptor_pb2.FieldDescriptorProto.TYPE_INT32), ("error_message", 2, text)],
        "Response": [("file_descriptor_response", 4, "Files"), ("list_services_response", 6, "Services"),
                     ("error_response", 7, "Error")],
    }.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = message.field.add(name=field, number=number, label=1)
            added.type = nested if isinstance(kind, str) else kind
            if isinstance(kind, str):
                added.type_name = f".{file.package}.{kind}"
            if field in ("file_descriptor_proto", "service"):
                added.label = 3
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_class(pool.FindMessageTypeByName(f"{file.package}.{name}")) for name in ("Request", "Response")]


def message_class(descriptor):
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory().GetPrototype(descriptor)


class Server:
    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(endpoint)
        self.request, response = reflection_messages()
        self.reflect = self.channel.stream_stream(
            REFLECTION, request_serializer=self.request.SerializeToString, response_deserializer=response.FromString)
        self.pool, self.files = descriptor_pool.DescriptorPool(), set()

    def ask(self, **what):
        (answer,) = self.reflect(iter([self.request(**what)]))
        if answer.error_response.error_message:
            sys.exit(f"error: {answer.error_response.error_message}")
        return answer

    def services(self):
        return sorted(s.name for s in self.ask(list_services="*").list_services_response.service)

    def add(self, answer):
        for data in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            if file.name in self.files:
                continue
            self.files.add(file.name)
            for other in file.dependency:
                if other not in self.files:
                    self.add(self.ask(file_by_filename=other))
            self.pool.Add(file)

    def call(self, name, data):
        service, _, method = name.rpartition("/")
        self.add(self.ask(file_containing_symbol=service))
        found = self.pool.FindServiceByName(service).FindMethodByName(method)
        if found is None:
            sys.exit(f"error: {service} has no method {method}")
        request, response = message_class(found.input_type), message_class(found.output_type)
        # All of these answer as a stream would; a single answer is a stream of one.
        call = self.channel.unary_stream(f"/{service}/{method}", request_serializer=request.SerializeToString,
                                         response_deserializer=response.FromString)
        for message in call(json_format.Parse(data, request(), descriptor_pool=self.pool)):
            print(json_format.MessageToJson(message, descriptor_pool=self.pool))


def main():
    arguments = [a for a in sys.argv[1:] if a != "-plaintext"]
    data = "{}"
    if "-d" in arguments:
        at = arguments.index("-d")
        data = arguments[at + 1]
        del arguments[at : at + 2]
    if len(arguments) != 2:
        sys.exit(__doc__)
    server = Server(arguments[0])
    if arguments[1] == "list":
        print("\n".join(server.services()))
    else:
        server.call(arguments[1], data)


if __name__ == "__main__":
    main()
