/* A TFLite external delegate that runs RESHAPE, for tests: what a real one does, with the least of work.
 *
 * The structures are the beginnings of those of TensorFlow Lite's stable C API (lite/core/c/common.h); later fields are
 * left out, or kept as zeros where a structure is handed over. A custom operator MyReshape is taken too, which no
 * interpreter has. Options: "take" = none, reshape, refuse, or int8, which refuses models without such tensors; "report" = a
 * file to which all options are written; "fail" = a reason not to create the delegate at all; "crash" = the process ends
 * when a model of so many operators is opened, or with "after" = N when it is run for the Nth time; "second" = refuse or
 * crash: a process may have one delegate at a time.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, ERROR = 1, INT8 = 9, RESHAPE = 22 };

typedef struct {
  int size;
  int data[];
} IntArray;

typedef struct {
  int type;
  void *data;
  IntArray *dims;
  struct {
    float scale;
    int32_t zero_point;
  } params;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  void *delegate;
  int buffer_handle;
  char data_is_stale, is_variable;
  struct {
    int type;
    void *params;
  } quantization;
  void *sparsity;
  const IntArray *dims_signature;
} Tensor;

typedef struct {
  IntArray *inputs, *outputs;
} Node;

typedef struct Context Context;

typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *later[4];
} Registration;

typedef struct Delegate {
  void *data;
  int (*prepare)(Context *, struct Delegate *);
  void *copy_from, *copy_to, *free_buffer;
  int64_t flags;
  void *later[2];
} Delegate;

struct Context {
  size_t tensors_size;
  int (*get_execution_plan)(Context *, IntArray **);
  Tensor *tensors;
  void *implementation;
  void *resize_tensor;
  void (*report_error)(Context *, const char *, ...);
  void *add_tensors;
  int (*get_node)(Context *, int, Node **, Registration **);
  int (*replace_nodes)(Context *, Registration, const IntArray *, Delegate *);
};

static int created, crash_operators = -1, crash_after, doomed;

static int invoke(Context *context, Node *node) {
  if (doomed && --crash_after <= 0) abort();
  const Tensor *target = &context->tensors[node->outputs->data[0]];
  /* The other input is the new shape, and either may come first. */
  for (int i = 0; i < node->inputs->size; i++) {
    const Tensor *source = &context->tensors[node->inputs->data[i]];
    if (source->type == target->type && source->bytes == target->bytes) {
      memcpy(target->data, source->data, target->bytes);
      return OK;
    }
  }
  return ERROR;
}

static int prepare_node(Context *context, Node *node) {
  (void)context;
  (void)node;
  return OK;
}

static int prepare(Context *context, Delegate *delegate) {
  const char *take = delegate->data;
  if (strcmp(take, "refuse") == 0) {
    context->report_error(context, "the accelerator is on fire");
    return ERROR;
  }
  if (strcmp(take, "int8") == 0) {
    size_t place = 0;
    while (place < context->tensors_size && context->tensors[place].type != INT8) place++;
    if (place == context->tensors_size) {
      context->report_error(context, "the accelerator computes with integers");
      return ERROR;
    }
  } else if (strcmp(take, "reshape") != 0) return OK;
  IntArray *plan, *taken;
  if (context->get_execution_plan(context, &plan) != OK) return ERROR;
  if (plan->size == crash_operators) doomed = 1;
  if (doomed && crash_after == 0) abort();
  taken = calloc(1, sizeof(IntArray) + sizeof(int) * plan->size);
  for (int i = 0; i < plan->size; i++) {
    Node *node;
    Registration *registration;
    if (context->get_node(context, plan->data[i], &node, &registration) != OK) return ERROR;
    const char *name = registration->custom_name;
    if (registration->builtin_code == RESHAPE || (name && strcmp(name, "MyReshape") == 0)) taken->data[taken->size++] = plan->data[i];
  }
  Registration kernel = {.prepare = prepare_node, .invoke = invoke, .custom_name = "ReshapeDelegate", .version = 1};
  int status = context->replace_nodes(context, kernel, taken, delegate);
  free(taken);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  const char *take = "reshape";
  FILE *file = NULL;
  for (size_t i = 0; i < count; i++) {
    if (strcmp(keys[i], "fail") == 0) {
      report(values[i]);
      return NULL;
    }
    if (strcmp(keys[i], "take") == 0) take = values[i];
    if (strcmp(keys[i], "crash") == 0) crash_operators = atoi(values[i]);
    if (strcmp(keys[i], "after") == 0) crash_after = atoi(values[i]);
    if (strcmp(keys[i], "second") == 0 && created > 0) {
      if (strcmp(values[i], "crash") == 0) abort();
      report("the device is in use");
      return NULL;
    }
    if (strcmp(keys[i], "report") == 0) file = fopen(values[i], "w");
  }
  for (size_t i = 0; file && i < count; i++) fprintf(file, "%s=%s\n", keys[i], values[i]);
  if (file) fclose(file);
  created++;
  Delegate *delegate = calloc(1, sizeof(Delegate));
  delegate->data = strdup(take);
  delegate->prepare = prepare;
  /* Tensors may be dynamic: asked before the operators are prepared, it may take one that no interpreter has. */
  delegate->flags = 1;
  return delegate;
}

#ifndef WITHOUT_DESTROY
void tflite_plugin_destroy_delegate(Delegate *delegate) {
  /* The interpreters also destroy what was not created. */
  if (delegate == NULL) return;
  created--;
  free(delegate->data);
  free(delegate);
}
#endif
