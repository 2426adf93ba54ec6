// Starts Swagger UI (Apache-2.0, see LICENSE and NOTICE beside this file) over the server's own schema. Nothing is
// fetched from elsewhere.
window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  validatorUrl: null,
  tryItOutEnabled: true,
});
