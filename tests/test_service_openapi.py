"""The OpenAPI document and the service agree: generated requests, all answers as the document says."""
import json

import pytest

from tests.serving import Served, small_index


@pytest.fixture(scope="module")
def served(tmp_path_factory, shapes):
    with Served(*small_index(tmp_path_factory, shapes, tmp_path_factory.mktemp("openapi"))[:2]) as running:
        yield running


def test_the_document_names_every_route_and_fault(served):
    status, document = served.ask("GET", "/openapi.json")
    assert status == 200
    operations = [(path, method) for path, value in document["paths"].items() for method in value]
    assert {("/v1/search/picture", "post"), ("/v1/search/text", "post"), ("/v1/search/item", "post"),
            ("/v1/items", "get"), ("/v1/items", "post"), ("/v1/items", "delete"), ("/v1/thumbnail", "get"),
            ("/v1/info", "get"), ("/health", "get"), ("/ready", "get"), ("/metrics", "get")} == set(operations)
    for path, method in operations:
        responses = document["paths"][path][method]["responses"]
        assert "4XX" in responses and "HTTPValidationError" not in json.dumps(responses)


@pytest.mark.slow
def test_schemathesis_finds_no_fault(served):
    schemathesis = pytest.importorskip("schemathesis", reason="requirements-test.txt")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks
    wanted = [not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
              checks.response_schema_conformance, checks.response_headers_conformance, checks.unsupported_method]
    schema, statuses, seen = schemathesis.openapi.from_url(f"{served.url}/openapi.json"), set(), set()
    for result in schema.get_all_operations():
        operation = result.ok()
        seen.add((operation.path, operation.method))

        @given(case=operation.as_strategy())
        @settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate], database=None,
                  suppress_health_check=list(HealthCheck))
        def run(case):
            response = case.call()
            statuses.add(response.status_code)
            case.validate_response(response, checks=wanted)
        run()
    assert len(seen) == 11 and {200, 400, 404} <= statuses and max(statuses) < 500
    assert served.ask("GET", "/ready")[0] == 200 and "Traceback" not in "".join(served.log)
